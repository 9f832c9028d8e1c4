"""The commands of `python -m slugdemo`, one file for each purpose; __main__.py puts them together."""
