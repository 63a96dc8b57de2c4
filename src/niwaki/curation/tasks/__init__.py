"""Our own generated tasks, one module a domain; `generators.py` lists them and draws from them."""
