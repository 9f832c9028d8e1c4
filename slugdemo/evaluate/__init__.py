"""What a host still shows: exams to search by, and rows on material that no search has seen.

material.py says what is asked; classes.py, drawings.py and answers.py ask the three hosts, each a
Board: it turns an edit into Points while searching, and into Rows afterwards, with other pictures
and other seeds.
"""

from slugdemo.evaluate.answers import Answers
from slugdemo.evaluate.classes import Classes
from slugdemo.evaluate.drawings import Drawings
from slugdemo.evaluate.material import Board, Row, Size, World

__all__ = ["Answers", "Board", "Classes", "Drawings", "Row", "Size", "World"]
