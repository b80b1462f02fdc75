"""One file a stage. Each holds `run(config, inputs, output)`: load, call, write; the mathematics is elsewhere."""
