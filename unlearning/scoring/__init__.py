"""What a generated answer is: phrases, classifiers and judges behind one interface; agreement."""
