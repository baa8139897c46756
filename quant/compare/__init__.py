"""What was lost: a quantized model beside the one that it was made of."""
