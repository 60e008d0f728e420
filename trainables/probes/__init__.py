"""Ways of finding out that something was not forgotten but hidden."""
