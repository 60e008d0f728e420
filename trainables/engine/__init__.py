"""DeepSpeed ZeRO-3 around the policy: start, weight reset, optimizer, LoRA, fast decoding. Only this room
knows DeepSpeed and peft."""
