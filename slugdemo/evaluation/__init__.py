"""What a host still shows: exams to search by, and rows on material that no search has seen.

material.py says what is asked; classes.py, drawings.py and answers.py ask the three hosts, each a
Board: it turns an edit into Points while searching, and into Rows afterwards, with other pictures
and other seeds.
"""

from slugdemo.evaluation.answer import Answers
from slugdemo.evaluation.classify import Classes
from slugdemo.evaluation.generate import Drawings
from slugdemo.evaluation.prompt_set import Board, Row, Size, World

__all__ = ["Answers", "Board", "Classes", "Drawings", "Row", "Size", "World"]
