"""What the report is made of: figures (DuckDB over the parts), charts (plotly), pictures (thumbnails), and the page's template."""
