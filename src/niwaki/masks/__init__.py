"""MaskLLM (arXiv 2409.17481): which N of every M weights survive, decided in one shot or learned."""
