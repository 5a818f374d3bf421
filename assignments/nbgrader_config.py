"""For teachers who use nbgrader: start it in this folder, and it reads this file."""

import os

from cifarlib import assignments

c = get_config()  # noqa: F821
assignments.configure(c)
c.CourseDirectory.course_id = "cifarlib"
os.environ.update(assignments.GRADING)  # kernels inherit it
