"""What is shown of the results: verdicts, figures, the page."""
