"""Key protection: keys encrypted as data (KeyWrapper) and keys used in place (ResidentKey). No Django here."""
