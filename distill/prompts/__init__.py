"""Where prompts come from: one file a source, all making `Task`s."""
