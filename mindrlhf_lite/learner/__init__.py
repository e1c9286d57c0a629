"""A trained model: its loss, its gradients, its optimizer."""
