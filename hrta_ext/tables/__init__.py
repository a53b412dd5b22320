"""Users' tables: reading, scaling, the model made of one."""
