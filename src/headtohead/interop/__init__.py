"""Networks and tokenizers to and from other programs: folders of models, Hugging Face, and the Python API."""
