"""The vocabulary: which tokens a corpus uses, which of them must stay, and a tokenizer with only those."""
