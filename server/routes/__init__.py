"""The HTTP rim: thin routes that call inwards, and the responses that carry answers out."""
