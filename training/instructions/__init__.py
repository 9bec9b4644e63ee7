"""Instruction data in the layout of Osprey-724K, made from masks and what is known of them."""
