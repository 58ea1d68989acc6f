"""Pages in Markdown, from results alone: the summary, and a file for each family that has a page or section."""
