"""Commands on files of prompts."""
