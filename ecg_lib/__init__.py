"""Signal processing, classification and evaluation of ECG; imports nothing by itself."""
