"""Training of Osprey: data, stages and the recipe of the small model that ships."""
