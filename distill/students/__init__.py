"""The shapes of students: one file a shape, all giving a transformers model that vLLM loads."""
