"""What a model still does after an edit: scores to search by, and results on held-out pictures.

prompt_set.py says what is asked; classify.py, generate.py and answer.py ask the three kinds of
model. Search split and report split share no picture and no seed.
"""
