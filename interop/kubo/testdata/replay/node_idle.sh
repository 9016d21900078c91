# Nodes that say yes to everything and do nothing.
node_command() { :; }
node_connect() { :; }
node_is_connected() { :; }
