"""From a finished study, or what there is of one, to tables, figures and a page."""
