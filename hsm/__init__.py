"""Key wrappers: keys encrypted as data, in software or in an HSM. Knows neither models nor HTTP."""
