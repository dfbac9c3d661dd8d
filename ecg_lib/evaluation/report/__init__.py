"""The EC57 report: conditions, figures, page and charts."""
