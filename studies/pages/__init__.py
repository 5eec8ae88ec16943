"""Tables, figures and a page of a study, finished or not."""
