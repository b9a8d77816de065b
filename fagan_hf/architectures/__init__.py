"""What a network is made of, as data: layers, networks, presets by name, files of your own."""
