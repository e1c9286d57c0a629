"""Questions in, MindRecord out, and back: sources, templates, tokenizer, records, sampler."""
