"""The network, its X-rays and its metrics; knows torch, and never sees a ciphertext.

Nothing is handed on here: reading a table of X-rays must not cost an import of torch.
"""
