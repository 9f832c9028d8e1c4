"""The page: one file per question, and the only place that knows gradio."""
