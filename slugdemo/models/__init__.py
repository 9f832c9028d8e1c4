"""Three hosts that contain CLIP; each reads it in its own way, none knows the others."""
