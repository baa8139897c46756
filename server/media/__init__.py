"""What is not text: PDFs, pictures, and what lies behind an address. See `conversation.media`."""
