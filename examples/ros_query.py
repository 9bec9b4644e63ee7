"""Ask the running node where an object is, through its service: `python examples/ros_query.py "the red mug"`."""

import sys

import rclpy

from osprey_interfaces.srv import QueryScene

rclpy.init()
node = rclpy.create_node("example_query")
client = node.create_client(QueryScene, "/osprey/query_scene")
if not client.wait_for_service(timeout_sec=20.0):
    sys.exit("no node /osprey: start one with `ros2 launch osprey_ros osprey.launch.py`")
future = client.call_async(QueryScene.Request(text=sys.argv[1]))
rclpy.spin_until_future_complete(node, future, timeout_sec=20.0)
if not future.done():
    sys.exit("the node did not answer within 20 seconds")
response = future.result()
print(response.message or "found")
for match in response.matches:
    print(f"object {match.object.track_id}: {match.object.description} ({match.score:.2f})")
node.destroy_node()
rclpy.shutdown()
