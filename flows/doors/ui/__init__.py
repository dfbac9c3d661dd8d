"""What the pages of Prefect and MLflow show: names, links, descriptions, automations."""
