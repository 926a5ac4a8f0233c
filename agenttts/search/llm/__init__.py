"""Language models in the search: client, prompts, agent and baselines."""
