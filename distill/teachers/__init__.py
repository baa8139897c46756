"""Who answers: a model that runs here, or an endpoint."""
