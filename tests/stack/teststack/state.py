PARTS=("mongodb","redis","rustfs","secrets")
