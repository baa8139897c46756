"""How families of models spell tools and thinking; and which one a model speaks."""
