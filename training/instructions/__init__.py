"""Makes instruction data in the layout of Osprey-724K from masks and their facts."""
