"""Generation: the engine protocol, the native engine, sampling."""
