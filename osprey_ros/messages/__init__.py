"""Conversion between ROS messages and numpy arrays, without rclpy."""
