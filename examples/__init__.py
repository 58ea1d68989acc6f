"""Models and data of a user's own, as `pytest claims` takes them; each module says how."""
