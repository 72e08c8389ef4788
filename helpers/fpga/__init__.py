"""The top floor: integer models, their bit-exact datapath and their files."""
