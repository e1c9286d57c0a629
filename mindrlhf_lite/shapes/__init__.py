"""What a model is made of, as data: its shape, the table of its parameters, the lengths of its sequences."""
