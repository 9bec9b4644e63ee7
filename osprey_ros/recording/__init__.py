"""rosbag2 recordings: reading, annotating and writing them."""
