"""In the hands of users: an OpenAI-compatible server over the decoding engine, and its page."""
