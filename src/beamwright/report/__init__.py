"""The report of a production: one document out of the database, and one HTML file out of the document."""
