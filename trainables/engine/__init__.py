"""DeepSpeed ZeRO-3 around the policy: start, weight reset, optimizer, LoRA, CUDA-graph decoding.

DeepSpeed and peft are imported in this room only.
"""
