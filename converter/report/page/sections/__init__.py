"""One module for each section of the HTML report."""
