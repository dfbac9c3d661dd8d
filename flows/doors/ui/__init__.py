"""Names, links, descriptions and automations, as the pages of Prefect and MLflow show them."""
