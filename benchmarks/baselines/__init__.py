"""What people would use instead of the engines: each module runs one of them on the weights of a bundle."""
